"""The chain store: encrypted, append-only, compactable logs with materialised views. Knows nothing of files."""
