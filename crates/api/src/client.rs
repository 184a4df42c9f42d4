//! The client's side of the socket. (Being written.)
