"""The two commands: `edgeice` for operators, `edgeice-agent` for the device."""
