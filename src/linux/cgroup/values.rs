//! Converts settings to the texts of files, in the order in which upstream's library writes them.
//! Pure.

use super::{CgroupSettings, HugePages};

/// "No limit" for huge pages: upstream's number.
const HUGE_PAGES_UNLIMITED: i64 = 1 << 62;
/// The period of a quota that has none, in microseconds: the kernel's.
const DEFAULT_PERIOD: u64 = 100_000;

/// One file of a cgroup, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// The controller that has the file.
    pub(super) controller: &'static str,
    /// The file's name, e.g. `memory.max`.
    pub(super) file: String,
    /// The text.
    pub(super) text: String,
    /// The handling of a kernel without the file, or of one that refuses the text.
    pub(super) refusal: Refusal,
}

/// The handling of a value that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The refusal is an error.
    Fails,
    /// A kernel without the file has no such limit, and needs none.
    Optional,
    /// The value is written once more after the others: a period that is too short for the old
    /// quota is refused until the new quota is set.
    Later,
}

impl Value {
    fn new(controller: &'static str, file: impl Into<String>, text: &impl ToString) -> Self {
        let file = file.into();
        let text = text.to_string();
        Self { controller, file, text, refusal: Refusal::Fails }
    }

    fn or(self, refusal: Refusal) -> Self {
        Self { refusal, ..self }
    }
}

/// Returns the files of cgroup v1.
pub(super) fn v1(settings: &CgroupSettings, page_sizes: &[i64]) -> Vec<Value> {
    let mut values = Vec::new();
    if let Some(cpus) = &settings.cpus {
        values.push(Value::new("cpuset", "cpuset.cpus", cpus));
    }

    if let Some(limit) = settings.memory.filter(|limit| *limit != 0) {
        if limit < 0 {
            // The limit of memory cannot exceed that of memory and swap together.
            let swap = Value::new("memory", "memory.memsw.limit_in_bytes", &limit);
            values.push(swap.or(Refusal::Optional));
        }
        values.push(Value::new("memory", "memory.limit_in_bytes", &limit));
    }

    if let Some(shares) = settings.cpu_shares.filter(|shares| *shares != 0) {
        values.push(Value::new("cpu", "cpu.shares", &shares));
    }

    let quota = settings.cpu_quota.filter(|quota| *quota != 0);
    if let Some(period) = settings.cpu_period.filter(|period| *period != 0) {
        let refusal = if quota.is_some() { Refusal::Later } else { Refusal::Fails };
        values.push(Value::new("cpu", "cpu.cfs_period_us", &period).or(refusal));
    }

    if let Some(quota) = quota {
        values.push(Value::new("cpu", "cpu.cfs_quota_us", &quota));
    }

    values.extend(settings.pids.map(pids));
    values.extend(huge_pages(settings, page_sizes, "limit_in_bytes"));
    values
}

/// Returns the files of cgroup v2.
pub(super) fn v2(settings: &CgroupSettings, page_sizes: &[i64]) -> Vec<Value> {
    let mut values = Vec::new();
    values.extend(settings.pids.map(pids));

    if let Some(limit) = settings.memory.filter(|limit| *limit != 0) {
        if limit < 0 {
            values.push(Value::new("memory", "memory.swap.max", &"max").or(Refusal::Optional));
        }
        let text = if limit < 0 { "max".to_owned() } else { limit.to_string() };
        values.push(Value::new("memory", "memory.max", &text));
    }

    if let Some(shares) = settings.cpu_shares.filter(|shares| *shares != 0) {
        values.push(Value::new("cpu", "cpu.weight", &cpu_weight(shares)));
    }

    let quota = settings.cpu_quota.filter(|quota| *quota != 0);
    let period = settings.cpu_period.filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = quota.filter(|quota| *quota > 0);
        let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        let period = period.unwrap_or(DEFAULT_PERIOD);
        values.push(Value::new("cpu", "cpu.max", &format!("{quota} {period}")));
    }

    if let Some(cpus) = &settings.cpus {
        values.push(Value::new("cpuset", "cpuset.cpus", cpus));
    }

    values.extend(huge_pages(settings, page_sizes, "max"));
    values
}

/// Converts the shares (2 to 262144) of v1 to the weight (1 to 10000) of v2, linearly as upstream's
/// kubelet does.
pub fn cpu_weight(shares: u64) -> u64 {
    if shares >= 262_144 { 10_000 } else { 1 + shares.saturating_sub(2) * 9999 / 262_142 }
}

/// Returns the limit on processes. systemd accepts no limit of zero, so upstream's library writes 1
/// in both places.
fn pids(limit: i64) -> Value {
    let text = if limit < 0 { "max".to_owned() } else { limit.max(1).to_string() };
    Value::new("pids", "pids.max", &text)
}

/// Returns a limit on pages in use, and one on reserved pages where the kernel distinguishes them.
fn huge_pages(settings: &CgroupSettings, page_sizes: &[i64], suffix: &str) -> Vec<Value> {
    let Some(limits) = &settings.huge_pages else { return Vec::new() };
    let mut values = Vec::new();

    for size in page_sizes {
        let limit = match limits {
            HugePages::Unlimited => HUGE_PAGES_UNLIMITED,
            HugePages::Limits(limits) => limits.get(size).copied().unwrap_or_default().max(0),
        };
        let name = size_name(*size);
        values.push(Value::new("hugetlb", format!("hugetlb.{name}.{suffix}"), &limit));
        let reserved = Value::new("hugetlb", format!("hugetlb.{name}.rsvd.{suffix}"), &limit);
        values.push(reserved.or(Refusal::Optional));
    }

    values
}

/// Returns the kernel's name of a size: `2MB`, `1GB`, `64KB`.
fn size_name(bytes: i64) -> String {
    for (shift, suffix) in [(30, "GB"), (20, "MB"), (10, "KB")] {
        if bytes % (1 << shift) == 0 {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::{CgroupSettings, HugePages, Value, size_name, v1, v2};

    fn shown(values: Vec<Value>) -> Vec<String> {
        values.into_iter().map(|value| format!("{}={}", value.file, value.text)).collect()
    }

    #[test]
    fn nothing_that_is_not_set_is_written() {
        let zero = CgroupSettings {
            cpu_shares: Some(0),
            cpu_quota: Some(0),
            cpu_period: Some(0),
            memory: Some(0),
            ..CgroupSettings::default()
        };
        for settings in [CgroupSettings::default(), zero] {
            assert_eq!(shown(v1(&settings, &[2 << 20])), [""; 0]);
            assert_eq!(shown(v2(&settings, &[2 << 20])), [""; 0]);
        }
    }

    #[test]
    fn no_limit_and_no_process() {
        let none = CgroupSettings { memory: Some(-1), pids: Some(-1), ..CgroupSettings::default() };
        assert_eq!(
            shown(v1(&none, &[])),
            ["memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1", "pids.max=max"]
        );
        assert_eq!(
            shown(v2(&none, &[])),
            ["pids.max=max", "memory.swap.max=max", "memory.max=max"]
        );
        let zero = CgroupSettings { pids: Some(0), ..CgroupSettings::default() };
        assert_eq!(shown(v1(&zero, &[])), ["pids.max=1"], "systemd takes no zero");
    }

    #[test]
    fn every_size_of_huge_pages_is_limited() {
        let sizes = [2 << 20, 1 << 30];
        let some = CgroupSettings {
            huge_pages: Some(HugePages::Limits([(2 << 20, 4 << 20)].into())),
            ..CgroupSettings::default()
        };
        assert_eq!(
            shown(v2(&some, &sizes)),
            [
                "hugetlb.2MB.max=4194304",
                "hugetlb.2MB.rsvd.max=4194304",
                "hugetlb.1GB.max=0",
                "hugetlb.1GB.rsvd.max=0"
            ]
        );
        let all =
            CgroupSettings { huge_pages: Some(HugePages::Unlimited), ..CgroupSettings::default() };
        assert_eq!(shown(v1(&all, &sizes))[0], "hugetlb.2MB.limit_in_bytes=4611686018427387904");
    }

    #[test]
    fn names_of_sizes() {
        let names = [2 << 20, 1 << 30, 64 << 10, 3].map(size_name);
        assert_eq!(names, ["2MB", "1GB", "64KB", "3B"]);
    }
}
