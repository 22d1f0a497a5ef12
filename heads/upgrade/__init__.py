"""What a new encoder would change, before everything is embedded again."""
