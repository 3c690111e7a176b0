# ml_collections without annotations makes every setting a union of all value types; a setting is typed by its use.
from . import config_dict as config_dict
from .config_dict import ConfigDict as ConfigDict
from .config_dict import FrozenConfigDict as FrozenConfigDict
