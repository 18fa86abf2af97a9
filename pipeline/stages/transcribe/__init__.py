"""What is said: passages with their words in source time."""
