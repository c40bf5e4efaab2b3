"""What a script or a notebook calls: losses of any network, comparisons, trainings, own loops."""
