"""Second derivatives of a loss, by products with vectors: eigenpairs, traces, densities."""
