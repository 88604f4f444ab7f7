"""Our samples in other tools' formats. Nothing here measures."""
