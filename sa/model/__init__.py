"""Networks, each built from a quantizer and described by a frozen dataclass."""
