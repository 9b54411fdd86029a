"""The two version numbers that travel: of the pack, and of the wire protocol (docs/protocol.md)."""

VERSION = "0.1.0"
PROTOCOL = 2  # raised by every change that an older peer could misread
