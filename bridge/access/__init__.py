"""Who may do what: tokens, scopes, rate limits, trusted proxies and secrets."""
