"""The home that saved heads name: ``heads.chosen.ChosenHead``."""

from heads.catalogue.best_of import ChosenHead

__all__ = ["ChosenHead"]
