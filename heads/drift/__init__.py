"""What comes in, compared with what a head learned from."""
