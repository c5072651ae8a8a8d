"""Demonstrations and training of small policies in the OpenVLA-OFT format."""
