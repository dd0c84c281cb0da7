//! The binary protocol: headers, opcodes and status numbers. See `doc/protocol-binary.txt`.
