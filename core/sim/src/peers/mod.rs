//! Real programs side by side: the `replicate` command, Litestream, an S3 server, and places they share.
//!
//! For the programs that compare us with Litestream (`interop`, `bench`). Every program that is started here
//! is owned by a value that ends it by its own process id, and nothing waits without a deadline. Where the
//! tools are comes from the caller's environment; nothing is looked for or installed.

mod app;
mod place;
mod process;
mod side;

pub use self::app::{App, compare};
pub use self::place::{File, Gateway, Place};
pub use self::process::{Process, Usage, wait_until};
pub use self::side::{Pace, Running, Side, Tools};

/// What these programs answer: nothing, or one readable error.
pub type Outcome<T = ()> = Result<T, String>;
