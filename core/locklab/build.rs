//! Fork handlers and threads must not outlive the code: the library stays loaded once it is.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
