"""What only the Telegram shop bot needs: its own tokens and webhooks, which are only read."""
