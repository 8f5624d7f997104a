"""What every daemon needs: a log, and a word to the service manager."""
