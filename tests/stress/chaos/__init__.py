"""The fault run: an application, receivers and bridges, and everything that can happen to them."""
