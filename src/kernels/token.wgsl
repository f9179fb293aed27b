// One token of a replay. Twin of `kernels::Token`.
struct Token {
    id: u32,
    position: u32,
    first_key: u32,
    last_key: u32,
}
