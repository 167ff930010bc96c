"""One test class per contract; every implementation inherits it and supplies a fixture."""
