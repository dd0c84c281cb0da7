//! Error codes of the tracker protocol with the texts clients match on: the one table. Which condition leads to which code is the tracker's business.

macro_rules! codes {
    ($($variant:ident $code:literal $text:literal;)*) => {
        /// Why a command was refused. `code()` is stable wire format; `text()` is what the original's clients print.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode {
            $(#[doc = concat!("`", $code, "`")] $variant,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code on the wire.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The usual text; empty when the code stands for itself.
            const fn table_text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

codes! {
    AfterMismatch "after_mismatch" "Pattern does not match the after-value?";
    BadParams "bad_params" "Invalid parameters to command; please see documentation";
    ClassExists "class_exists" "That class already exists in that domain";
    ClassHasFiles "class_has_files" "Class still has files, unable to delete";
    ClassNotFound "class_not_found" "Class not found";
    Db "db" "Database error";
    DomainExists "domain_exists" "That domain already exists";
    DomainHasFiles "domain_has_files" "Domain still has files, unable to delete";
    DomainNotFound "domain_not_found" "Domain not found";
    Dup "dup" "Duplicate name/number used.";
    Failure "failure" "Operation failed";
    HostExists "host_exists" "That host already exists";
    HostMismatch "host_mismatch" "The device specified doesn't belong to the host specified";
    HostNotEmpty "host_not_empty" "Unable to delete host; it contains devices still";
    HostNotFound "host_not_found" "Host not found";
    UnknownHost "unknown_host" "Host not found";
    InvalidMindevcount "invalid_mindevcount" "The mindevcount must be at least 1";
    KeyExists "key_exists" "Target key name already exists; can't overwrite.";
    NoClass "no_class" "No class provided";
    NoDevices "no_devices" "No devices found to store file";
    NoDevice "no_device" "Device not found";
    NoDomain "no_domain" "No domain provided";
    NoHost "no_host" "No host provided";
    NoIp "no_ip" "IP required to create host";
    NoPort "no_port" "Port required to create host";
    NoTempFile "no_temp_file" "No tempfile or file already closed";
    NoneMatch "none_match" "No keys match that pattern and after-value (if any).";
    PluginAborted "plugin_aborted" "Action aborted by plugin";
    StateTooHigh "state_too_high" "Status cannot go from dead to alive; must use down";
    UnknownCommand "unknown_command" "Unknown server command";
    UnknownState "unknown_state" "Invalid/unknown state";
    UnregDomain "unreg_domain" "Domain name invalid/not found";
    RebalNotStarted "rebal_not_started" "Rebalance not running";
    NoRebalState "no_rebal_state" "No available rebalance status";
    NoRebalPolicy "no_rebal_policy" "No rebalance policy available";
    NodelDefaultClass "nodel_default_class" "Cannot delete the default class.";
    NoFid "no_fid" "";
    NoDevid "no_devid" "";
    NoPath "no_path" "";
    NoKey "no_key" "";
    BogusArgs "bogus_args" "";
    FidInUse "fid_in_use" "";
    FidExists "fid_exists" "";
    UnregClass "unreg_class" "";
    UnknownKey "unknown_key" "";
    InvalidKey "invalid_key" "";
    UnknownFid "unknown_fid" "";
    InvalidDevid "invalid_devid" "";
    InvalidState "invalid_state" "";
    UnknownHostid "unknown_hostid" "";
    ExistingDevid "existing_devid" "";
    DomainHasClasses "domain_has_classes" "";
    InvalidHashtype "invalid_hashtype" "";
    InvalidChecksumFormat "invalid_checksum_format" "";
    NotWritable "not_writable" "";
    SizeVerifyError "size_verify_error" "";
    SizeMismatch "size_mismatch" "";
    ChecksumMismatch "checksum_mismatch" "";
    InvalidDestdev "invalid_destdev" "";
    InvalidReplpolicy "invalid_replpolicy" "";
    InvalidFormat "invalid_format" "";
    BadArgs "bad_args" "";
    BadRebalPol "bad_rebal_pol" "";
    FsckRunning "fsck_running" "";
    RebalRunning "rebal_running" "";
    NoSetRebal "no_set_rebal" "";
    CopyErr "copy_err" "";
    BadRequest "bad_request" "request too long";
    KeyTooLong "key_too_long" "Key longer than the database can hold";
    Unsupported "unsupported" "Command not supported by this tracker";
}

impl ErrorCode {
    /// The text sent when the tracker has nothing more exact to say; the code itself when it has none of its own.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self.table_text().len() {
            0 => self.code(),
            _ => self.table_text(),
        }
    }

    /// The code written as `code`, for clients; `None` for one this table does not know.
    #[must_use]
    pub fn parse(code: &[u8]) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|known| known.code().as_bytes() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_have_texts() {
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.code().as_bytes()), Some(code));
            assert!(!code.text().is_empty());
        }
        assert_eq!(ErrorCode::UnknownKey.text(), "unknown_key");
        assert_eq!(ErrorCode::parse(b"nonsense"), None);
    }
}
