"""What is printed: text of clients, receivers and users cannot control the reader's terminal."""
