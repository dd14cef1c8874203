"""Where data come from: one interface, and a module or two for each kind of dataset."""
