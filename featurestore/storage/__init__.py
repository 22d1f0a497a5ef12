"""What lies on disk: tables over shards, small files, caches; the only room that writes them."""
