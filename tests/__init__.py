"""A package, so that no other package called ``tests`` that lies about goes before it; the folders below need none."""
