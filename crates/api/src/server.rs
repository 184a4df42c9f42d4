//! The node's side of the socket. (Being written.)
