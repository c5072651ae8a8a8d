"""OpenVLA-OFT in its published checkpoint format, on transformers, without timm or torchvision."""
