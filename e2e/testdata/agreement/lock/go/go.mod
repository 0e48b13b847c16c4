module example.com/app

go 1.21

require (
	golang.org/x/net v0.7.0
	golang.org/x/text v0.3.5
	github.com/gin-gonic/gin v1.6.0
	github.com/BurntSushi/toml v0.3.1
	github.com/dgrijalva/jwt-go v3.2.0+incompatible
	gopkg.in/yaml.v2 v2.2.2
	github.com/docker/docker v20.10.7+incompatible
)
