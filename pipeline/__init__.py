"""The command line, recipes, and what a person sees: tables, report, comparison."""
