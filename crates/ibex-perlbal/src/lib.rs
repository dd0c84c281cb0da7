//! Reverse proxy, load balancer and web server in the manner of Perlbal.
