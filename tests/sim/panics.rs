//! Panics of tasks, of nodes and of clients. tokio keeps them to itself, and the task would be missing
//! in silence; to end its runtime instead would drop what is half done, which may panic again and end
//! the process with all its seeds. So the first of a thread is kept, and fails the seed it runs.

use std::cell::RefCell;
use std::panic::{set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on, of this thread; those before are forgotten.
pub(crate) fn watch() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            let text = panic.payload_as_str().unwrap_or("without a word").to_owned();
            FIRST.with_borrow_mut(|first| first.get_or_insert(text).len());
            before(panic);
        }));
    });
    FIRST.with_borrow_mut(|first| *first = None);
}

/// What the first one said.
pub(crate) fn first() -> Option<String> {
    FIRST.with_borrow(Clone::clone)
}
