//! What the process does to itself before it touches a secret.
//!
//! No core dump, no debugger of another process, files for the owner only, and a panic message
//! that has no data in it.

use std::io::Write;
use std::panic::PanicHookInfo;

use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask,
};

/// Does all of it. What the system refuses is left as it is: a backup is worth more than that.
pub fn harden_process() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    umask(Mode::from_raw_mode(0o077));
    std::panic::set_hook(Box::new(|info| {
        drop(writeln!(std::io::stderr().lock(), "{}", panic_line(info)));
    }));
}

/// Place and message; the message only where it is a literal, which cannot carry values.
fn panic_line(info: &PanicHookInfo<'_>) -> String {
    let place =
        info.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
    let message = info.payload().downcast_ref::<&'static str>();
    format!("internal fault{place}{}", message.map_or_else(String::new, |m| format!(": {m}")))
}

#[cfg(test)]
mod tests {
    use super::panic_line;
    use std::sync::{Arc, Mutex};

    #[test]
    fn panics_show_literals_and_no_values() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (list, before) = (Arc::clone(&seen), std::panic::take_hook());
        let this = std::thread::current().id();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().id() == this {
                list.lock().unwrap().push(panic_line(info));
            }
        }));
        let secret = std::hint::black_box("hunter2");
        for panicking in [|_: &str| panic!("a literal"), |s: &str| panic!("value {s}")] {
            assert!(std::panic::catch_unwind(|| panicking(secret)).is_err());
        }
        std::panic::set_hook(before);
        let lines = seen.lock().unwrap();
        assert!(lines[0].ends_with(": a literal"), "{}", lines[0]);
        assert!(!lines[1].contains("hunter2"), "{}", lines[1]);
    }
}
