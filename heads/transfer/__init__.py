"""Which encoder, which layer, does pretraining help, and what to do."""
