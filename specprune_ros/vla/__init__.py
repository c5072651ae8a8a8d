"""Vision-Language-Action backbones. Each is a folder that passes the same contract tests."""
