"""Stands for ``libero.libero`` 0.1.4: asks for a missing config, would download missing assets."""
import os

libero_config_path = os.environ.get("LIBERO_CONFIG_PATH", os.path.expanduser("~/.libero"))
config_file = os.path.join(libero_config_path, "config.yaml")
_assets_path_cache = None


def get_libero_path(query_key):
    import yaml

    with open(config_file) as file:
        return dict(yaml.safe_load(file))[query_key]


def get_assets_path():
    global _assets_path_cache
    if _assets_path_cache is not None and os.path.exists(_assets_path_cache):
        return _assets_path_cache
    local = os.path.join(os.path.dirname(os.path.abspath(__file__)), "assets")
    if os.path.exists(local):
        _assets_path_cache = local
        return local
    raise AssertionError("LIBERO would download its assets now")


if not os.path.exists(config_file):
    input("Do you want to specify a custom path for the dataset folder? (Y/N): ")
    raise AssertionError("LIBERO has asked a question")
