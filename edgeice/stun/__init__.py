"""STUN: message codec, integrity, transactions and URIs (RFC 8489, 7064, 7065).

Sans-IO.  Attributes of ICE (RFC 8445) and TURN (RFC 8656) are in the table too; what they mean is decided there.
"""

from edgeice.stun.attributes import Attribute as Attribute
from edgeice.stun.integrity import AuthenticationError as AuthenticationError
from edgeice.stun.integrity import Integrity as Integrity
from edgeice.stun.integrity import long_term_key as long_term_key
from edgeice.stun.integrity import opaque_string as opaque_string
from edgeice.stun.integrity import userhash as userhash
from edgeice.stun.message import AuthenticatedMessage as AuthenticatedMessage
from edgeice.stun.message import Message as Message
from edgeice.stun.message import MessageClass as MessageClass
from edgeice.stun.message import Method as Method
from edgeice.stun.message import authenticate as authenticate
from edgeice.stun.message import decode as decode
from edgeice.stun.message import encode as encode
from edgeice.stun.message import is_stun as is_stun
from edgeice.stun.values import AddressErrorCode as AddressErrorCode
from edgeice.stun.values import ErrorCode as ErrorCode
from edgeice.stun.values import Icmp as Icmp
from edgeice.stun.values import PasswordAlgorithm as PasswordAlgorithm
from edgeice.stun.values import PasswordAlgorithmEntry as PasswordAlgorithmEntry

__all__ = [
    "AddressErrorCode",
    "Attribute",
    "AuthenticatedMessage",
    "AuthenticationError",
    "ErrorCode",
    "Icmp",
    "Integrity",
    "Message",
    "MessageClass",
    "Method",
    "PasswordAlgorithm",
    "PasswordAlgorithmEntry",
    "authenticate",
    "decode",
    "encode",
    "is_stun",
    "long_term_key",
    "opaque_string",
    "userhash",
]
