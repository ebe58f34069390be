"""The traps T1-T28, each walked into under its name."""
