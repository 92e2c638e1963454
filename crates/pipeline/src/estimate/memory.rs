//! How much memory this process may still take.

/// Bytes that can be taken without swapping: Linux's `MemAvailable`, or what is left of the limit of the process's control
/// groups (version 2, as containers have) if that is less. `None` where the system does not tell.
pub fn available_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let system = parse_meminfo(&meminfo)?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = parse_cgroup(&groups).and_then(|path| left_in_groups(&path));
    Some(group.map_or(system, |group| group.min(system)))
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The path of the control group, without a leading `/`.
fn parse_cgroup(text: &str) -> Option<String> {
    let path = text.lines().find_map(|l| l.strip_prefix("0::/"))?;
    Some(path.to_owned())
}

/// The least that any group from `path` up to the root has left. Inside a container its own group is the root.
fn left_in_groups(path: &str) -> Option<u64> {
    let mut folder = std::path::Path::new("/sys/fs/cgroup").join(path);
    let mut least = None;
    loop {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let left = left_in_group(
            &read("memory.max"),
            &read("memory.current"),
            &read("memory.stat"),
        );
        least = match (least, left) {
            (Some(a), Some(b)) => Some(std::cmp::min(a, b)),
            (a, b) => a.or(b),
        };
        if !folder.pop() || !folder.starts_with("/sys/fs/cgroup") {
            return least;
        }
    }
}

/// What the limit leaves, where there is one. Cached files count as used, but those that are idle make room.
fn left_in_group(max: &str, current: &str, stat: &str) -> Option<u64> {
    let max: u64 = max.trim().parse().ok()?;
    let current: u64 = current.trim().parse().ok()?;
    let idle = stat.lines().find_map(|l| l.strip_prefix("inactive_file "));
    let idle = idle.and_then(|n| n.trim().parse().ok()).unwrap_or(0);
    Some(max.saturating_sub(current.saturating_sub(idle)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_tells() {
        let meminfo = "MemTotal:       24000000 kB\nMemAvailable:   12345678 kB\n";
        assert_eq!(parse_meminfo(meminfo), Some(12_345_678 * 1024));
        assert_eq!(parse_meminfo("MemTotal: 5 kB\n"), None);
        assert_eq!(parse_meminfo("MemAvailable: many kB\n"), None);
        let groups = "1:name=systemd:/\n0::/user.slice/a\n";
        assert_eq!(parse_cgroup(groups).as_deref(), Some("user.slice/a"));
        assert_eq!(parse_cgroup("0::/\n").as_deref(), Some(""));
        assert_eq!(parse_cgroup(""), None);
    }

    #[test]
    fn what_a_group_leaves() {
        let stat = "anon 600\nfile 300\ninactive_file 200\n";
        assert_eq!(left_in_group("1000\n", "900\n", stat), Some(300));
        assert_eq!(left_in_group("1000\n", "900\n", ""), Some(100));
        assert_eq!(left_in_group("800\n", "900\n", ""), Some(0));
        assert_eq!(left_in_group("max\n", "900\n", stat), None);
        assert_eq!(left_in_group("", "", ""), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_some() {
        let memory = available_memory().expect("Linux tells");
        assert!((1 << 20..1 << 50).contains(&memory), "{memory}");
    }
}
