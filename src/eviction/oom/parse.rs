//! Reads the kernel's lines about processes that it has killed for want of memory. Pure.
//!
//! ```text
//!  stress invoked oom-killer: gfp_mask=…
//!  oom-kill:constraint=…,oom_memcg=/kubepods/pod1,task_memcg=/kubepods/pod1/ab,task=stress,pid=7,…
//!  Memory cgroup out of memory: Killed process 7 (stress) total-vm:…
//! ```
//!
//! Names of processes are chosen by pods: they may look like any part of a line. What follows a
//! name is therefore read from the end, and lines that programs have written do not count.

/// The most that is read of one record; the kernel's are shorter.
pub const RECORD: usize = 8192;

/// A process that the kernel has killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// The process's name; empty if the kernel did not say.
    pub process: String,
    /// Its id.
    pub pid: u32,
    /// The cgroup that it was in; `/` if the kernel did not say.
    pub cgroup: String,
    /// True if the whole machine ran out of memory, not a cgroup.
    pub is_global: bool,
}

/// Returns the kernel's message in a record of `/dev/kmsg`: `PRIORITY,NUMBER,TIME,FLAGS;MESSAGE`.
/// `None` for what a program has written.
pub fn message(record: &[u8]) -> Option<String> {
    let record = record.get(..record.len().min(RECORD))?;
    let end = record.iter().position(|byte| *byte == b'\n').unwrap_or(record.len());
    let split = record[..end].iter().position(|byte| *byte == b';')?;
    let head = std::str::from_utf8(&record[..split]).ok()?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    // The facility is above the three bits of the level; the kernel's is zero.
    let is_kernels = priority >> 3 == 0;
    is_kernels.then(|| String::from_utf8_lossy(&record[split + 1..end]).into_owned())
}

/// Puts the lines about one kill together.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    /// The kill that the kernel is telling about.
    current: Option<Kill>,
}

/// What has been told of a kill.
#[derive(Clone, Debug)]
struct Kill {
    cgroup: String,
    is_global: bool,
}

impl Parser {
    /// Takes in the next message; returns the victim once it is known.
    pub fn take(&mut self, message: &str) -> Option<Victim> {
        if message.contains("invoked oom-killer:") {
            self.current = Some(Kill { cgroup: "/".to_owned(), is_global: true });
            return None;
        }
        let kill = self.current.as_mut()?;
        if let Some(summary) = message.split_once("oom-kill:constraint=").map(|(_, rest)| rest) {
            let summary = Summary::parse(summary)?;
            summary.cgroup.clone_into(&mut kill.cgroup);
            // Upstream takes a cgroup at the top for the machine.
            kill.is_global = summary.limited.is_none_or(|limited| limited == "/");
            return self.end(summary.process, summary.pid);
        }
        if let Some((cgroup, limited)) = old_summary(message) {
            cgroup.clone_into(&mut kill.cgroup);
            kill.is_global = limited == "/";
            return None;
        }
        let (process, pid) = killed(message)?;
        self.end(process, pid)
    }

    fn end(&mut self, process: &str, pid: u32) -> Option<Victim> {
        let Kill { cgroup, is_global } = self.current.take()?;
        Some(Victim { process: process.to_owned(), pid, cgroup, is_global })
    }
}

/// The kernel's summary in one line.
struct Summary<'a> {
    /// The cgroup whose limit was reached; `None`: the machine's memory.
    limited: Option<&'a str>,
    /// The cgroup of the process.
    cgroup: &'a str,
    process: &'a str,
    pid: u32,
}

impl<'a> Summary<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (before, rest) = text.split_once(",task_memcg=")?;
        let limited = before.split_once(",oom_memcg=").map(|(_, cgroup)| cgroup);
        let (cgroup, rest) = rest.split_once(",task=")?;
        let (rest, _uid) = rest.rsplit_once(",uid=")?;
        let (process, pid) = rest.rsplit_once(",pid=")?;
        Some(Self { limited, cgroup, process, pid: pid.parse().ok()? })
    }
}

/// Reads `Task in A killed as a result of limit of B`, as kernels before 5.0 have it.
fn old_summary(message: &str) -> Option<(&str, &str)> {
    let (_, rest) = message.split_once("Task in ")?;
    rest.split_once(" killed as a result of limit of ")
}

/// Reads `Killed process 7 (stress) …`.
fn killed(message: &str) -> Option<(&str, u32)> {
    let (_, rest) = message.split_once("Killed process ")?;
    let (pid, rest) = rest.split_once(" (")?;
    let (process, _) = rest.rsplit_once(')')?;
    Some((process, pid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Parser, Victim, message};

    const INVOKED: &str = "stress invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0";

    fn victims(lines: &[&str]) -> Vec<Victim> {
        let mut parser = Parser::default();
        lines.iter().filter_map(|line| parser.take(line)).collect()
    }

    fn victim(process: &str, pid: u32, cgroup: &str, is_global: bool) -> Victim {
        Victim { process: process.to_owned(), pid, cgroup: cgroup.to_owned(), is_global }
    }

    #[test]
    fn a_cgroup_at_its_limit() {
        let summary = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c,\
            mems_allowed=0,oom_memcg=/kubepods/pod1,task_memcg=/kubepods/pod1/ab,task=stress,pid=7,\
            uid=0";
        let killed = "Memory cgroup out of memory: Killed process 7 (stress) total-vm:1kB";
        assert_eq!(
            victims(&[INVOKED, "Tasks state (memory values in pages):", summary, killed]),
            [victim("stress", 7, "/kubepods/pod1/ab", false)]
        );
    }

    #[test]
    fn the_whole_machine() {
        let summary = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,\
            mems_allowed=0,global_oom,task_memcg=/user.slice,task=evil,pid=5643,uid=1000";
        let expected = [victim("evil", 5643, "/user.slice", true)];
        assert_eq!(victims(&[INVOKED, summary]), expected);
        let killed = "Out of memory: Killed process 1532 (badsysprogram) total-vm:1kB, UID:0";
        assert_eq!(victims(&[INVOKED, killed]), [victim("badsysprogram", 1532, "/", true)]);
    }

    #[test]
    fn older_kernels() {
        let limit = "Task in /mem2 killed as a result of limit of /mem3";
        let killed = "Killed process 19667 (evilprogram2) total-vm:1460016kB";
        assert_eq!(
            victims(&[INVOKED, limit, killed]),
            [victim("evilprogram2", 19667, "/mem2", false)]
        );
    }

    #[test]
    fn a_name_that_looks_like_the_line_is_a_name() {
        let summary = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c,\
            mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=x,pid=1,uid=0,pid=77,uid=9";
        assert_eq!(victims(&[INVOKED, summary]), [victim("x,pid=1,uid=0", 77, "/a/b", false)]);
        let killed = "Killed process 8 (a) b (c)) total-vm:1kB";
        assert_eq!(victims(&[INVOKED, killed]), [victim("a) b (c)", 8, "/", true)]);
    }

    #[test]
    fn nothing_without_a_beginning() {
        assert!(victims(&["Killed process 8 (a) total-vm:1kB"]).is_empty());
    }

    #[test]
    fn only_the_kernels_own_records_count() {
        assert_eq!(message(b"6,1,2,-;hello\n SUBSYSTEM=x\n").as_deref(), Some("hello"));
        assert_eq!(message(b"3,1,2,-,caller=T1;a;b").as_deref(), Some("a;b"));
        // Facility 1: written to /dev/kmsg by a program.
        assert_eq!(message(b"12,1,2,-;x invoked oom-killer: y"), None);
        assert_eq!(message(b"no record"), None);
        assert_eq!(message(b"\xff\xfe,1;x"), None);
    }

    proptest! {
        #[test]
        fn nothing_that_is_logged_breaks_it(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
            texts in prop::collection::vec(
                "(x invoked oom-killer: |oom-kill:constraint=|,task_memcg=|,task=|,pid=|,uid=|Killed process |[0-9]{1,12}| \\(|\\)|.){0,12}",
                0..20,
            ),
        ) {
            let mut parser = Parser::default();
            for record in records {
                if let Some(text) = message(&record) {
                    parser.take(&text);
                }
            }
            for text in texts {
                parser.take(&text);
            }
        }
    }
}
