"""The doors that train heads: fit, compare, curve, suggest; and runs again."""
