//! The directories and the file systems of a store, for an operator.

use std::path::Path;

use connector_core::Diagnosis;
use rustix::fs::{Access, AtFlags, CWD, StatVfs, accessat, stat, statvfs};

use super::dirs::nearest_existing;
use super::files::Files;

/// Less free room is a failure, and less than [`LOW`] a warning: shares of the file system.
const EMPTY: f64 = 0.01;
const LOW: f64 = 0.05;
const GIB: f64 = (1_u64 << 30) as f64;

pub(super) fn diagnose(files: &Files) -> Vec<Diagnosis> {
    let capacity = files.quota.as_ref().map(|quota| quota.capacity);
    let mut lines = Vec::new();
    for base in files.dirs.distinct() {
        let path = files.dirs.path(base);
        let existing = nearest_existing(path);
        let mut found = vec![directory(path, existing)];
        found.extend(file_system(existing));
        match statvfs(existing) {
            Ok(room) => found.extend(space(&room, capacity)),
            Err(e) => {
                let advice = "check the mount";
                found.push(Diagnosis::fail("disk space", format!("the file system does not answer: {e}"), advice));
            }
        }
        lines.extend(found.into_iter().map(|line| line.of(path.display())));
    }
    lines
}

/// Whether this user may make files there.
fn directory(path: &Path, existing: &Path) -> Diagnosis {
    let about = match stat(existing) {
        Ok(stat) => format!("owner {}, group {}, mode {:o}", stat.st_uid, stat.st_gid, stat.st_mode & 0o7777),
        Err(e) => {
            return Diagnosis::fail("directory", format!("it cannot be examined: {e}"), "check the path and the mount");
        }
    };
    let about = match path == existing {
        true => about,
        false => format!("the first put makes it below `{}` ({about})", existing.display()),
    };
    match accessat(CWD, existing, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => Diagnosis::ok("directory", about),
        Err(e) => {
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            let why = format!("user {uid} (group {gid}) may not write: {e}; {about}");
            Diagnosis::fail("directory", why, format!("`chown {uid} {}`, or run as its owner", existing.display()))
        }
    }
}

/// The kind of the file system, if a reader should know it.
#[cfg(target_os = "linux")]
fn file_system(path: &Path) -> Option<Diagnosis> {
    // Numbers of statfs(2).
    let kind = match rustix::fs::statfs(path).ok()?.f_type as u64 & 0xffff_ffff {
        0x0102_1994 => {
            let advice = "use a disk if chunks must survive a restart of the machine";
            return Some(Diagnosis::warn("file system", "tmpfs: the chunks are in memory", advice));
        }
        0x794c_7630 => {
            let advice = "mount a volume: the layer of a container is slow, and goes with the container";
            return Some(Diagnosis::warn("file system", "overlayfs: the writable layer of a container", advice));
        }
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0x6969 => "nfs, over the network",
        0xff53_4d42 | 0xfe53_4d42 => "cifs, over the network",
        0x0bd0_0bd0 => "lustre, over the network",
        0x00c3_6400 => "ceph, over the network",
        0x6573_5546 => "fuse",
        _ => return None,
    };
    Some(Diagnosis::ok("file system", kind))
}

#[cfg(not(target_os = "linux"))]
fn file_system(_: &Path) -> Option<Diagnosis> {
    None
}

/// Free bytes and free inodes.
fn space(room: &StatVfs, capacity: Option<u64>) -> Vec<Diagnosis> {
    let bytes = |blocks: u64| blocks as f64 * room.f_frsize as f64;
    let (free, all) = (bytes(room.f_bavail), bytes(room.f_blocks));
    let text = format!("{} of {} free", size(free), size(all));
    let advice = match capacity {
        Some(_) => "free disk space, or set a smaller `capacity`",
        None => "free disk space",
    };
    let mut lines = vec![match share(free, all) {
        Some(..EMPTY) => Diagnosis::fail("disk space", text, advice),
        Some(..LOW) => Diagnosis::warn("disk space", text, advice),
        _ => Diagnosis::ok("disk space", text),
    }];
    lines.push(match capacity.map(|bytes| bytes as f64) {
        None => {
            let advice = "set the option `capacity`, so that kvconn removes the chunks used longest ago";
            Diagnosis::warn("capacity", "no limit: the store fills its file system", advice)
        }
        Some(capacity) if capacity > all => {
            let text = format!("the option `capacity` has {}, and the file system {}", size(capacity), size(all));
            Diagnosis::fail("capacity", text, "set `capacity` to less than the file system has")
        }
        Some(capacity) => Diagnosis::ok("capacity", size(capacity)),
    });
    // Some file systems have no fixed number of inodes.
    let (free, all) = (room.f_favail as f64, room.f_files as f64);
    let text = format!("{free} of {all} free");
    let advice = "remove files: each chunk needs an inode";
    lines.extend(share(free, all).map(|share| match share {
        ..EMPTY => Diagnosis::fail("inodes", text, advice),
        ..LOW => Diagnosis::warn("inodes", text, advice),
        _ => Diagnosis::ok("inodes", text),
    }));
    lines
}

fn size(bytes: f64) -> String {
    if bytes >= GIB / 10.0 { format!("{:.1} GiB", bytes / GIB) } else { format!("{:.1} MiB", bytes / GIB * 1024.0) }
}

fn share(free: f64, all: f64) -> Option<f64> {
    (all > 0.0).then(|| free / all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use connector_core::Verdict;

    #[test]
    fn little_room_is_a_warning_and_none_a_failure() {
        let mut room = statvfs("/").expect("the root is there");
        (room.f_frsize, room.f_blocks, room.f_files, room.f_favail) = (4096, 1000, 0, 0);
        for (free, verdict) in [(500, Verdict::Ok), (40, Verdict::Warn), (5, Verdict::Fail)] {
            room.f_bavail = free;
            let lines = space(&room, None);
            let found: Vec<_> = lines.iter().map(|line| (line.check.as_str(), line.verdict)).collect();
            assert_eq!(found, [("disk space", verdict), ("capacity", Verdict::Warn)], "{free}");
        }
        (room.f_bavail, room.f_files, room.f_favail) = (500, 1000, 3);
        let lines = space(&room, Some(1 << 30));
        let found: Vec<_> = lines.iter().map(|line| (line.check.as_str(), line.verdict)).collect();
        assert_eq!(found, [("disk space", Verdict::Ok), ("capacity", Verdict::Fail), ("inodes", Verdict::Fail)]);
    }
}
