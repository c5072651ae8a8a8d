"""The methods SpecPrune-VLA is compared with, one file each, behind the interface of ``base``."""
