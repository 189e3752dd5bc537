"""What operators look at: health, status, findings and figures."""
