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
from edgeice.stun.rto import RtoCache as RtoCache
from edgeice.stun.server import authenticate_request as authenticate_request
from edgeice.stun.server import error_response as error_response
from edgeice.stun.server import success_response as success_response
from edgeice.stun.server import unknown_attributes_response as unknown_attributes_response
from edgeice.stun.table import TransactionTable as TransactionTable
from edgeice.stun.transaction import SERVER_ERROR_RETRIES as SERVER_ERROR_RETRIES
from edgeice.stun.transaction import Due as Due
from edgeice.stun.transaction import FailureReason as FailureReason
from edgeice.stun.transaction import Outcome as Outcome
from edgeice.stun.transaction import RetransmissionPolicy as RetransmissionPolicy
from edgeice.stun.transaction import Transaction as Transaction
from edgeice.stun.transaction import TransactionFailed as TransactionFailed
from edgeice.stun.transaction import TransactionRejected as TransactionRejected
from edgeice.stun.transaction import TransactionSucceeded as TransactionSucceeded
from edgeice.stun.transaction import TransactionTimers as TransactionTimers
from edgeice.stun.transaction import new_transaction_id as new_transaction_id
from edgeice.stun.uri import ServerUri as ServerUri
from edgeice.stun.uri import parse_uri as parse_uri
from edgeice.stun.values import AddressErrorCode as AddressErrorCode
from edgeice.stun.values import ErrorCode as ErrorCode
from edgeice.stun.values import Icmp as Icmp
from edgeice.stun.values import PasswordAlgorithm as PasswordAlgorithm
from edgeice.stun.values import PasswordAlgorithmEntry as PasswordAlgorithmEntry

__all__ = [
    "SERVER_ERROR_RETRIES",
    "AddressErrorCode",
    "Attribute",
    "AuthenticatedMessage",
    "AuthenticationError",
    "Due",
    "ErrorCode",
    "FailureReason",
    "Icmp",
    "Integrity",
    "Message",
    "MessageClass",
    "Method",
    "Outcome",
    "PasswordAlgorithm",
    "PasswordAlgorithmEntry",
    "RetransmissionPolicy",
    "RtoCache",
    "ServerUri",
    "Transaction",
    "TransactionFailed",
    "TransactionRejected",
    "TransactionSucceeded",
    "TransactionTable",
    "TransactionTimers",
    "authenticate",
    "authenticate_request",
    "decode",
    "encode",
    "error_response",
    "is_stun",
    "long_term_key",
    "new_transaction_id",
    "opaque_string",
    "parse_uri",
    "success_response",
    "unknown_attributes_response",
    "userhash",
]
