"""`featurestore demo`: the main job on real data, offline."""
