"""Takes out of settings what looks like a secret, before loggers keep them."""

import re

from omegaconf import DictConfig, OmegaConf, open_dict

HIDDEN = "***"
ENVIRONMENTS = ("cluster.env", "ray_kwargs.ray_init.runtime_env.env_vars")
_SECRET = re.compile(r"key|token|secret|passw|credential|auth|cookie", re.IGNORECASE)
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")


def _without_password(text: str) -> str:
    """A text whose addresses have lost their ``USER:PASSWORD@``."""
    return _PASSWORD.sub(f"{HIDDEN}@", text)


def hide_secrets(config: DictConfig) -> None:
    """Blank, in place, the environment variables of a configuration that look like secrets.

    Loggers such as W&B keep the whole configuration; processes have their variables by then.
    """
    for holder in ENVIRONMENTS:
        variables = OmegaConf.select(config, holder)
        for name in variables or {}:
            if _SECRET.search(str(name)) and variables[name] is not None:
                with open_dict(config):
                    variables[name] = HIDDEN
            elif isinstance(variables[name], str):
                variables[name] = _without_password(variables[name])
