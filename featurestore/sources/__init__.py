"""Where items come from: one file per kind, each giving a listing as an Arrow table."""
