return standing
