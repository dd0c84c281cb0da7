//! Names of the tracker's commands: one closed set, so that dispatch, metrics labels and docs cannot drift apart. Does not know their arguments.

macro_rules! commands {
    ($($variant:ident $name:literal $doc:literal;)*) => {
        /// A command of the tracker protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Command {
            $(#[doc = $doc] $variant,)*
        }

        impl Command {
            /// Every command, in the order of the protocol document.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

commands! {
    CreateOpen "create_open" "Reserve a file id and destinations.";
    CreateClose "create_close" "Make an upload visible under its key.";
    GetPaths "get_paths" "URLs of a file's replicas.";
    Delete "delete" "Forget a key.";
    Rename "rename" "Give a file another key.";
    UpdateClass "updateclass" "Move a file to another class.";
    FileInfo "file_info" "Metadata of a key.";
    FileDebug "file_debug" "Everything the database knows of a file.";
    EditFile "edit_file" "Unsupported experiment of the original.";
    ListKeys "list_keys" "Keys with a prefix, sorted.";
    ListFids "list_fids" "Files by id.";
    ReplicateNow "replicate_now" "Make postponed replication due.";
    Sleep "sleep" "Wait, then answer.";
    Noop "noop" "Answer.";
    Test "test" "Answer, or fail on request.";
    ClearCache "clear_cache" "Re-read the cluster's description.";
    DoMonitorRound "do_monitor_round" "Probe the devices, then answer.";
    HttpCopy "httpcopy" "Copy one replica on request.";
    CreateDomain "create_domain" "New namespace.";
    DeleteDomain "delete_domain" "Remove an empty namespace.";
    CreateClass "create_class" "New class in a domain.";
    UpdateClassDef "update_class" "Change a class.";
    DeleteClass "delete_class" "Remove an unused class.";
    GetDomains "get_domains" "All domains and classes.";
    CreateHost "create_host" "New storage node.";
    UpdateHost "update_host" "Change a storage node.";
    DeleteHost "delete_host" "Remove a node without devices.";
    GetHosts "get_hosts" "All nodes.";
    CreateDevice "create_device" "New disk.";
    GetDevices "get_devices" "All disks.";
    SetState "set_state" "Change a disk's state.";
    SetWeight "set_weight" "Change a disk's weight.";
    ServerSetting "server_setting" "One setting.";
    ServerSettings "server_settings" "All settings.";
    SetServerSetting "set_server_setting" "Change a setting.";
    FsckStart "fsck_start" "Start checking all files.";
    FsckStop "fsck_stop" "Pause checking.";
    FsckReset "fsck_reset" "Begin from the first file next time.";
    FsckClearLog "fsck_clearlog" "Forget the findings.";
    FsckGetLog "fsck_getlog" "Findings.";
    FsckStatus "fsck_status" "Progress and sums of findings.";
    RebalanceSetPolicy "rebalance_set_policy" "Say what to move.";
    RebalanceTest "rebalance_test" "Show which disks the policy picks.";
    RebalanceStart "rebalance_start" "Start moving.";
    RebalanceStop "rebalance_stop" "Stop moving.";
    RebalanceStatus "rebalance_status" "Progress.";
    RebalanceReset "rebalance_reset" "Forget progress.";
}

impl Command {
    /// The command called `name`, in any case.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|command| command.name().as_bytes().eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_case_insensitive_and_unique() {
        assert_eq!(Command::parse(b"CREATE_OPEN"), Some(Command::CreateOpen));
        assert_eq!(Command::parse(b"stats"), None);
        assert_eq!(Command::parse(b""), None);
        for &command in Command::ALL {
            assert_eq!(Command::parse(command.name().as_bytes()), Some(command));
        }
    }
}
