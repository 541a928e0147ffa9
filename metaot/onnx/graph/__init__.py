"""What is exported: modules that torch traces, made of the networks themselves."""
