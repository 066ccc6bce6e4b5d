"""verl and vLLM on a machine without an accelerator; imported only where ``VERL_PLATFORM=cpu``."""


def install() -> None:
    """Register the CPU platform with verl and adapt what assumes an accelerator."""
    from recipe.cpu import adaptations
    from recipe.cpu.platform import register

    register()
    adaptations.install()
