//! Who waits for a job: nobody, mostly one submission, seldom more. One word and a tag, because every waiting job has one.

use crate::job::ConnId;

/// One entry per attached foreground submission.
#[derive(Debug, Clone, Default)]
pub(crate) enum Clients {
    #[default]
    None,
    One(ConnId),
    #[expect(
        clippy::box_collection,
        reason = "one word in every job instead of three"
    )]
    Many(Box<Vec<ConnId>>),
}

impl Clients {
    pub(crate) fn as_slice(&self) -> &[ConnId] {
        match self {
            Self::None => &[],
            Self::One(conn) => std::slice::from_ref(conn),
            Self::Many(conns) => conns,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn push(&mut self, conn: ConnId) {
        match self {
            Self::None => *self = Self::One(conn),
            Self::One(first) => *self = Self::Many(Box::new(vec![*first, conn])),
            Self::Many(conns) => conns.push(conn),
        }
    }

    /// Forgets every entry of a connection.
    pub(crate) fn forget(&mut self, conn: ConnId) {
        match self {
            Self::None => {}
            Self::One(one) => {
                if *one == conn {
                    *self = Self::None;
                }
            }
            Self::Many(conns) => conns.retain(|c| *c != conn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_of_a_connection_goes() {
        let mut clients = Clients::default();
        assert!(clients.is_empty());
        for conn in [1, 2, 1, 3] {
            clients.push(ConnId(conn));
        }
        clients.forget(ConnId(1));
        assert_eq!(clients.as_slice(), [ConnId(2), ConnId(3)]);
        clients.forget(ConnId(3));
        clients.forget(ConnId(2));
        assert_eq!(clients.len(), 0);
        clients = Clients::One(ConnId(7));
        clients.forget(ConnId(8));
        assert_eq!(clients.len(), 1);
        clients.forget(ConnId(7));
        assert!(clients.is_empty());
    }
}
